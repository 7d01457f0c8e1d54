import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_any, tree_map

import minillm
from minillm.corpus import Cleaner, DuplicateFilter, QualityFilter, SampleSource
from minillm.data import TextDataModule
from minillm.language_model import LanguageModel
from minillm.tokenization import WordTokenizer
from tests import slurm_cluster

ROOT = Path(__file__).parent.parent
TINY = (
    "model.embedding_dim=32",
    "model.num_layers=1",
    "data.num_articles=60",
    "data.vocab_size=400",
    "data.max_length=64",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=5",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "callbacks.bleu_evaluation.max_articles=4",
    "callbacks.text_samples.max_new_tokens=8",
)


class Ended(NamedTuple):
    """What a script left behind."""

    status: Any
    stdout: str
    stderr: str


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny networks lose more by sharing work than they gain, most of all on a machine that has other work."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep the caches of all tests in one place, so that equal data is prepared once."""
    folder = tmp_path_factory.mktemp("caches")
    os.environ["MINILLM_DATA_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def run_script() -> Callable[..., Ended]:
    """Run a script as its command line would, in this process and the current folder: imports are paid for once."""

    def run(name: str, *arguments: str) -> Ended:
        GlobalHydra.instance().clear()
        environment, kept = dict(os.environ), sys.argv
        sys.argv = [str(ROOT / "scripts" / f"{name}.py"), *arguments]
        out, err = io.StringIO(), io.StringIO()
        status: Any = 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            status = end.code
        finally:
            sys.argv = kept
            os.environ.clear()
            os.environ.update(environment)
            if loky := sys.modules.get("joblib.externals.loky"):  # its processes would stay, in this run's folder
                loky.get_reusable_executor().shutdown()
        return Ended(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The settings of a training that takes a second."""
    return TINY


@pytest.fixture(scope="session")
def train(run_script: Callable[..., Ended]) -> Callable[..., Ended]:
    """Run scripts/train.py with settings that take a second, and further ones."""
    return partial(run_script, "train", *TINY)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Ended]) -> Path:
    """Train two epochs with scripts/train.py; the folder in which it was called."""
    folder = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(folder):
        # With 400 words a third of the text is unknown.
        ended = train("trainer.max_epochs=2", "optimizer.lr=0.003", "evaluation.audit.inflation.unknown=1")
    assert ended.status == 0, ended.stderr
    (folder / "stdout.txt").write_text(ended.stdout, encoding="utf-8")
    (folder / "stderr.txt").write_text(ended.stderr, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def run_folder(finished: Path) -> Path:
    """What the trained run left: outputs/train/<date>_<time>."""
    [folder] = (finished / "outputs" / "train").iterdir()
    return folder


@pytest.fixture(scope="session")
def trained(run_folder: Path) -> LanguageModel:
    """The trained run's best checkpoint, loaded."""
    return minillm.load(run_folder / "checkpoints" / "best.ckpt", device="cpu")


@pytest.fixture(scope="session")
def make_data(data_dir: Path) -> Callable[..., TextDataModule]:
    """Make a data module of the sample's first articles; nothing is prepared yet."""

    def make(**settings: Any) -> TextDataModule:
        chosen: dict[str, Any] = {
            "source": SampleSource(),
            "cleaning": Cleaner(),
            "quality": QualityFilter(),
            "duplicates": DuplicateFilter(),
            "tokenizer": WordTokenizer(),
            "vocab_size": 400,
            "max_length": 64,
            "batch_size": 8,
            "num_workers": 0,
            "num_articles": 60,
            "data_dir": data_dir,
            **settings,
        }
        return TextDataModule(**chosen)

    return make


@pytest.fixture(scope="session")
def data(make_data: Callable[..., TextDataModule]) -> TextDataModule:
    """A data module that is ready for use."""
    module = make_data()
    module.prepare_data()
    module.setup()
    return module


@pytest.fixture(scope="session")
def read_only() -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """Make a folder read-only for the time of a ``with``."""

    @contextlib.contextmanager
    def chmod(folder: Path) -> Iterator[None]:
        paths = [folder, *folder.rglob("*")]
        modes = [path.stat().st_mode for path in paths]
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode & ~0o222)
        try:
            yield
        finally:
            for path, mode in zip(paths, modes, strict=True):
                path.chmod(mode)

    @contextlib.contextmanager
    def remount(folder: Path) -> Iterator[None]:
        mount(["--bind", str(folder)], folder)
        try:
            mount(["-o", "remount,ro,bind"], folder)
            yield
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)

    # Permissions do not bind root.
    return remount if os.name == "posix" and os.getuid() == 0 else chmod


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(["-t", "tmpfs", "-o", "size=1m", "none"], folder)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def mount(arguments: list[str], folder: Path) -> None:
    """Mount what the arguments say at a folder; skip the test where that is not allowed."""
    try:
        subprocess.run(["mount", *arguments, folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount anything: {error}")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real Slurm of two nodes: the environment for its commands; tests that use it carry the marker ``slurm``."""
    if lacking := slurm_cluster.missing():
        pytest.skip(lacking)
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm") / "cluster") as environment:
        yield environment


@pytest.fixture
def random_ids() -> Callable[..., torch.Tensor]:
    """Draw token ids from the words of a vocabulary of 50, the same ones each time."""

    def draw(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randint(4, 50, shape, generator=torch.Generator().manual_seed(seed))

    return draw


class Narrow(Tensor):
    """A tensor on a device that knows no float64, as Apple's GPUs; its values are in the processor's memory."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Narrow":
        if held.dtype == torch.float64:
            raise TypeError("this device has no float64")
        # Of the types of devices that PyTorch knows, one that asks for no driver.
        narrow: Narrow = Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=torch.device("lazy"))
        narrow.held = held
        return narrow

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map(lambda value: value.held if isinstance(value, Narrow) else value, (args, kwargs or {}))
        to = kwargs.pop("device", None)
        result = func(*args, **kwargs)
        if to is not None and torch.device(to).type == "cpu":
            return result
        return tree_map(lambda value: Narrow(value) if isinstance(value, Tensor) else value, result)


class NarrowDevice(TorchFunctionMode):
    """Lets tensors be moved to, and made on, the device of `Narrow`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def is_narrow(value: Any) -> bool:
            return isinstance(value, str | torch.device) and torch.device(value).type == "lazy"

        if func is Tensor.to and tree_any(is_narrow, (args[1:], kwargs)):
            return args[0] if isinstance(args[0], Narrow) else Narrow(args[0])
        if kwargs and is_narrow(kwargs.get("device")):
            return Narrow(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def device_without_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A device that has no float64, as Apple's GPUs, which few machines have."""
    monkeypatch.setattr("minillm.numerics.WITHOUT_FLOAT64", frozenset({"lazy"}))
    with NarrowDevice():
        yield torch.device("lazy")
