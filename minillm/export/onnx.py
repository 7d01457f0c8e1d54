"""The network as an ONNX graph, for onnxruntime and other runtimes: `format=onnx`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minillm.errors import OutsideError, SettingError
from minillm.evaluation.language_modelling import measure
from minillm.export import tokenizers
from minillm.export.exporting import TrainedRun, library
from minillm.export.quiet import quiet
from minillm.export.text import held_out
from minillm.tokenization import BOS, EOS, PAD

PURPOSE = "format=onnx"
GRAPH, INT8 = "model.onnx", "model_int8.onnx"
OPSET = 18  # of 2023: known to current runtimes, and the first with all operations that the networks need
SHORTEST = 3  # tokens of context: PyTorch takes a size of 1 for a constant, and free sizes start at 2
TOLERANCE = 1e-4  # of a logit, in float32
LARGE = 1_900_000_000  # bytes: protocol buffers hold under 2 GiB, so larger weights go into a file beside the graph


class Onnx:
    """Writes ``model.onnx``: ``input_ids`` (batch, length) int64 to ``logits`` (batch, length, V) float32.

    Batch and length are free. The graph is opened with onnxruntime and compared with the network before the folder gets
    its name. Shorter rows are padded at the end with [PAD], which causal attention ignores. There is no cache of keys
    and values.

    Args:
        int8: also write ``model_int8.onnx``, in which the matrices are 8-bit integers (onnxruntime's dynamic
            quantization), and measure on the run's test split what that costs in bits per byte.
        max_tokens: of the test split, those that it is measured on at most; None: all.
    """

    def __init__(self, int8: bool = False, max_tokens: int | None = 200_000) -> None:
        self.int8, self.max_tokens = int8, max_tokens

    def __call__(self, run: TrainedRun, folder: Path) -> None:
        """Write the files; see `minillm.export.ExportFormat`.

        Raises:
            SettingError: a library is missing, the network cannot be a graph, or the test split is not at hand.
            OutsideError: the graph does not compute what the network does.
        """
        for name in ("onnx", "onnxscript", "onnxruntime"):
            library(name, PURPOSE)
        model = run.model
        text = held_out(run, "format.int8=true", self.max_tokens) if self.int8 else None
        write_graph(model.network, len(model.tokenizer), model.max_length, folder / GRAPH)
        facts: dict[str, Any] = {
            "input": "input_ids",
            "output": "logits",
            "max_length": model.max_length,
            "vocab_size": len(model.tokenizer),
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            "largest_difference_of_a_logit": check_graph(
                model.network, len(model.tokenizer), model.max_length, folder / GRAPH
            ),
        }
        if text is not None:
            write_int8(folder / GRAPH, folder / INT8)
            scores = {
                name: measure(GraphNetwork(folder / name), text.documents, model.max_length).figures
                for name in (GRAPH, INT8)
            }
            facts["int8"] = {
                "measured_on": str(text),
                "tokens": scores[GRAPH]["tokens"],
                "bits_per_byte_float32": scores[GRAPH]["bits_per_byte"],
                "bits_per_byte_int8": scores[INT8]["bits_per_byte"],
                "cost_in_bits_per_byte": scores[INT8]["bits_per_byte"] - scores[GRAPH]["bits_per_byte"],
            }
        (folder / "onnx.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        (folder / "tokenizer.json").write_text(tokenizers.to_json(model.tokenizer), encoding="utf-8")


class GraphNetwork(nn.Module):
    """A graph that onnxruntime runs on the CPU, in place of a network.

    Args:
        path: the file.

    Raises:
        OutsideError: onnxruntime cannot open it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        runtime = library("onnxruntime", PURPOSE)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            self.session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has a class of error per state
            raise OutsideError(f"onnxruntime does not open the graph: {' '.join(str(error).split())}") from error

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, T) to logits (B, T, V)."""
        [logits] = self.session.run(None, {"input_ids": ids.numpy()})
        return torch.from_numpy(logits)


def write_graph(network: nn.Module, vocab_size: int, max_length: int, path: Path) -> None:
    """Write a network as a graph of free batch and length.

    Args:
        network: maps ids (B, T) to logits (B, T, V), on the CPU.
        vocab_size: V.
        max_length: the longest T.
        path: the file to write.

    Raises:
        SettingError: PyTorch cannot export it.
    """
    if max_length < SHORTEST:
        advice = f"cannot be with a context of {max_length}: for PyTorch its length would be a constant; train with"
        raise SettingError("format", "onnx", f"{advice} data.max_length of {SHORTEST} at least")
    ids = torch.full((2, SHORTEST), min(BOS, vocab_size - 1))
    length = torch.export.Dim("length", max=max_length)
    try:
        with quiet():
            program = torch.onnx.export(
                network.eval(),
                (ids,),
                input_names=["input_ids"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch"), 1: length},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # a user's network can fail in any way
        what = type(network).__name__
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SettingError("format", "onnx", f"PyTorch cannot make a graph of {what}: {first.strip()}") from error
    assert program is not None
    _forget_sources(program.model)
    program.save(path)


def check_graph(network: nn.Module, vocab_size: int, max_length: int, path: Path) -> float:
    """Return the largest difference of a logit between a graph and its network, over shapes unlike the exported one.

    Args:
        network: maps ids (B, T) to logits (B, T, V), on the CPU.
        vocab_size: V.
        max_length: the longest T.
        path: the graph.

    Raises:
        OutsideError: it exceeds `TOLERANCE`, or the graph takes one shape only.
    """
    graph = GraphNetwork(path)
    shape = graph.session.get_inputs()[0].shape
    if any(isinstance(size, int) for size in shape):
        raise OutsideError(f"the graph is of one shape alone, {shape}; it was not written")
    random = np.random.default_rng(0)
    largest = 0.0
    for batch, length in ((1, 1), (1, max_length), (3, max(1, max_length // 2)), (5, min(2, max_length))):
        ids = torch.from_numpy(random.integers(0, vocab_size, (batch, length)))
        try:
            computed = graph(ids)
        except Exception as error:  # see GraphNetwork
            advice = f"does not run on {batch} rows of {length} tokens: {' '.join(str(error).split())}"
            raise OutsideError(f"the graph {advice}") from error
        with torch.inference_mode():
            difference = (computed - network(ids)).abs().max().item()
        largest = max(largest, difference)
        if not difference <= TOLERANCE:
            raise OutsideError(
                f"the graph's logits differ by {difference:.2g} from the network's, on {batch} x {length} tokens; "
                f"at most {TOLERANCE:g} may be rounding: it was not written"
            )
    return largest


def write_int8(source: Path, path: Path) -> None:
    """Write a graph with matrices of 8-bit integers; activations are quantized at run time.

    Args:
        source: the graph in float32.
        path: the file to write.
    """
    quantization = library("onnxruntime.quantization", PURPOSE)
    size = sum(file.stat().st_size for file in source.parent.glob(f"{source.name}*"))
    with quiet():
        quantization.quantize_dynamic(
            source, path, weight_type=quantization.QuantType.QInt8, use_external_data_format=size > LARGE
        )


def _forget_sources(model: Any) -> None:
    """Remove the source locations of operations from a graph."""
    traversal = library("onnx_ir.traversal", PURPOSE)
    for node in traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
