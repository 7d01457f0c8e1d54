"""miniLLM: train a small Spanish language model from scratch, with numbers that can be believed."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minillm.evaluation.auditing import audit
    from minillm.language_model import LanguageModel, load

__all__ = ["LanguageModel", "audit", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy: importing PyTorch takes seconds.
    if name == "audit":
        from minillm.evaluation import auditing

        return auditing.audit
    if name in __all__:
        from minillm import language_model

        return getattr(language_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
