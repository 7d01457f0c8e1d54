"""The run's test split as a task of lm-evaluation-harness: `format=harness`."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from minillm.data.batching import EncodedDocuments
from minillm.evaluation.language_modelling import measure
from minillm.export import tokenizers
from minillm.export.exporting import TrainedRun
from minillm.export.text import held_out
from minillm.tokenization import EOS, PAD, SPECIAL_TOKENS, Tokenizer
from minillm.training.predictions import predict

NAME = "minillm_test"
WINDOWS_AT_ONCE = 32
NO_LIMIT = 1_000_000_000  # tokens: no warnings about long texts, which the harness cuts itself
COLUMNS = ("page_id", "title", "url", "revision_id", "licence", "text")

TASK = """\
# The test split of a miniLLM run, for lm-evaluation-harness: bits per byte, each article from [BOS] through [EOS].
task: {name}
custom_dataset: !function utils.articles
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
process_results: !function utils.process_results
metric_list:
  - metric: bits_per_byte
    aggregation: bits_per_byte
    higher_is_better: false
metadata:
  version: 1.0
"""

UTILS = '''\
"""What the task's YAML cannot say: where its text is, and what a token that hides text costs."""

import math
from pathlib import Path

import datasets


def articles(**_):
    """Return the articles beside this file."""
    return {"test": datasets.Dataset.from_json(str(Path(__file__).parent / "test.jsonl"))}


def process_results(doc, results):
    """Return log-likelihood and bytes; what [UNK] tokens hide is spelled out at 8 bits for each of its bytes."""
    [loglikelihood] = results
    return {"bits_per_byte": (loglikelihood - 8 * math.log(2) * doc["unknown_bytes"], len(doc["text"].encode("utf-8")))}
'''

README = """\
# {name}: a task for lm-evaluation-harness

{articles:,} articles that the model was not trained on (`test.jsonl`, with title, address and licence of each).

```bash
python scripts/export.py format=transformers path=my_model/
cd FOLDER # this one
lm_eval --model hf --model_args pretrained=PATH/my_model,tokenizer=tokenizer,dtype=float32,max_length={max_length} \\
    --tasks {name} --include_path . --device cpu --batch_size 16
```

It should print **{harness:.4f}** bits per byte; of the same text `lm.score` says **{score:.4f}**.

- `tokenizer/` is the model's own, but that it ends a text with [EOS] and does not begin it with [BOS], which the
  harness puts there itself: so the same tokens are predicted. With the tokenizer of `my_model/` [EOS] would not be
  predicted, and [BOS] twice be read.
- `utils.py` adds what [UNK] tokens hide, {unknown_bytes:,} bytes here, at 8 bits each; the harness itself does not.
- The difference of {difference:+.4f} is that of the windows. Both cut an article every {max_length} tokens. In an
  article's last window the harness goes on with the tokens before, as many as fit; `lm.score` begins anew.
"""


class Harness:
    """Writes a task that works without this project: ``lm_eval --tasks minillm_test --include_path FOLDER``.

    Args:
        max_tokens: most tokens of the test split: the articles with the smallest hashes; null: all.
        batch_size: windows per batch.
    """

    def __init__(self, max_tokens: int | None = 2_000_000, batch_size: int = WINDOWS_AT_ONCE) -> None:
        self.max_tokens, self.batch_size = max_tokens, batch_size

    def __call__(self, run: TrainedRun, folder: Path) -> None:
        """Write the files; see `minillm.export.ExportFormat`.

        Raises:
            SettingError: the run's test split is not at hand.
        """
        model = run.model
        text = held_out(run, "format=harness", self.max_tokens)
        documents = text.documents
        unknown = int(documents.unknown_bytes.sum())
        nats = rolling_nats(model.network, documents, model.max_length, self.batch_size)
        harness = (nats / math.log(2) + 8 * unknown) / int(documents.bytes.sum())
        score = measure(model.network, documents, model.max_length, self.batch_size).figures["bits_per_byte"]
        with (folder / "test.jsonl").open("w", encoding="utf-8") as file:
            for article, unknown_bytes in zip(text.articles, documents.unknown_bytes.tolist(), strict=True):
                row = {name: article[name] for name in COLUMNS} | {"unknown_bytes": unknown_bytes}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / f"{NAME}.yaml").write_text(TASK.format(name=NAME), encoding="utf-8")
        (folder / "utils.py").write_text(UTILS, encoding="utf-8")
        write_tokenizer(model.tokenizer, folder / "tokenizer")
        figures = {"harness": harness, "score": score, "difference": harness - score}
        (folder / "expected.json").write_text(
            json.dumps({"bits_per_byte": figures, "measured_on": str(text), "max_length": model.max_length}, indent=2)
            + "\n",
            encoding="utf-8",
        )
        readme = README.format(
            name=NAME,
            articles=len(text.articles),
            max_length=model.max_length,
            unknown_bytes=unknown,
            **figures,
        )
        (folder / "README.md").write_text(readme, encoding="utf-8")


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer for transformers that ends a text with [EOS] and adds nothing before it."""
    state = json.loads(tokenizers.to_json(tokenizer))
    end = SPECIAL_TOKENS[EOS]
    state["post_processor"]["single"] = [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": end, "type_id": 0}},
    ]
    state["post_processor"]["special_tokens"][end] = {"id": end, "ids": [EOS], "tokens": [end]}
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")
    settings = tokenizers.settings(NO_LIMIT)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def rolling_windows(length: int, max_length: int) -> Iterator[tuple[int, int, int]]:
    """Yield the windows in which lm-evaluation-harness predicts a text: its ``loglikelihood_rolling``.

    Args:
        length: tokens to predict.
        max_length: tokens of context.

    Yields:
        For each window: the first token that is read, the first that is predicted, and the end. Token 0 is [BOS].

    >>> list(rolling_windows(7, 3))
    [(0, 1, 4), (3, 4, 7), (4, 7, 8)]
    """
    for first in range(1, length + 1, max_length):
        end = min(first + max_length, length + 1)
        yield max(0, end - 1 - max_length), first, end


@torch.inference_mode()
def rolling_nats(
    network: nn.Module, documents: EncodedDocuments, max_length: int, batch_size: int = WINDOWS_AT_ONCE
) -> float:
    """Return the cross-entropy of all documents in the windows of lm-evaluation-harness, in nats.

    Args:
        network: maps ids (B, T) to logits (B, T, V), in eval mode, on the processor.
        documents: to predict.
        max_length: tokens of context.
        batch_size: windows per batch.
    """
    total, rows = 0.0, list[tuple[NDArray[np.int64], NDArray[np.int64]]]()

    def flush() -> float:
        """Predict the collected windows."""
        width = max(len(read) for read, _ in rows)
        inputs, targets = np.full((2, len(rows), width), PAD, dtype=np.int64)
        for row, (read, predicted) in enumerate(rows):
            inputs[row, : len(read)] = read
            targets[row, len(read) - len(predicted) : len(read)] = predicted
        rows.clear()
        nats = predict(network(torch.from_numpy(inputs)), torch.from_numpy(targets)).nats
        return nats.sum(dtype=torch.float64).item()

    for index in range(len(documents)):
        tokens = documents[index].astype(np.int64)
        for start, first, end in rolling_windows(len(tokens) - 1, max_length):
            rows.append((tokens[start : end - 1], tokens[first:end]))
            if len(rows) == batch_size:
                total += flush()
    return total + (flush() if rows else 0.0)
