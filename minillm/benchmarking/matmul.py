"""How fast the machine multiplies matrices: what the networks' speed is compared with."""

from collections.abc import Sequence

from minillm.arithmetic import DTYPES, Products
from minillm.benchmarking.loops import prepare_device
from minillm.benchmarking.worker import Turns


def multiply(turns: Turns, device: str, size: int, dtypes: Sequence[str]) -> None:
    """Measure the speed of matrix products; one try of each dtype a turn.

    Args:
        turns: one's turns.
        device: where.
        size: rows of each of the two matrices, which are square.
        dtypes: names of the matrices' types, of `minillm.arithmetic.DTYPES`.
    """
    prepare_device(device)
    products = {name: Products(size, DTYPES[name], device) for name in dtypes}
    for several in products.values():
        several.speed()
    turns.ready(size=size)
    while True:
        turns.wait()
        turns.done(flops={name: several.speed() for name, several in products.items()})
