"""Rank, world size and collective operations.

Both come from the environment, as torchrun (`torchrun --nproc-per-node 8 -m umemma ...`) or a
Slurm step (`srun umemma ...`) sets it. Without either, this process is the only one, and every
function here returns at once.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from umemma.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Result = TypeVar("Result")

# The environment variables of (rank, world size, local rank). A batch script without srun has no
# SLURM_STEP_NUM_TASKS, so it runs alone.
LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)
GATHERED = 2**26  # bytes of the rows of all ranks that `gather_rows` exchanges at once
# What gloo and NCCL say where a peer is gone.
LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Timed out",
    "remote process exit",
)


class World(NamedTuple):
    """The place of this process among all of a run.

    rank: 0..size-1.
    size: the number of processes.
    local_rank: the rank on this machine, which is also the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def world() -> World:
    """Return the place of this process. Raises UserError for an invalid environment."""
    for names in LAUNCHERS:
        if all(name in os.environ for name in names):
            return _parse_world(names)
    return World()


def _parse_world(names: tuple[str, str, str]) -> World:
    try:
        place = World(*(int(os.environ[name]) for name in names))
    except ValueError:
        place = World(-1)
    if 0 <= place.rank < place.size:
        return place
    values = ", ".join(f"{name}={os.environ[name]}" for name in names)
    raise UserError(
        f"no valid rank: {values}",
        "environment",
        "Start the processes with torchrun or srun.",
    )


def is_main() -> bool:
    """Return whether this is rank 0, the only process that writes files and reports results."""
    return world().rank == 0


def init(wanted: str | None = None) -> torch.device:
    """Join the process group, if there are several processes, and return the device of this one.

    Call it once per process. wanted: "cpu", "cuda" or "cuda:N"; None = a GPU where there is one.
    UserError for a GPU that is not there.
    """
    import torch

    device = torch.device("cpu")
    gpus = torch.cuda.device_count()
    if wanted is not None and wanted != "cpu":
        _check_device(wanted, gpus)
    if wanted != "cpu" and torch.cuda.is_available():
        index = world().local_rank % gpus
        if wanted and ":" in wanted:
            index = int(wanted.partition(":")[2])
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    if world().size > 1:
        _join_process_group(device)
    return device


def _check_device(wanted: str, gpus: int) -> None:
    """Raise UserError unless there is the GPU that is wanted."""
    number = int(wanted.partition(":")[2] or 0)
    if number < gpus:
        return
    seen = "PyTorch sees no GPU"
    if gpus:
        seen = f"PyTorch sees {gpus}, cuda:0 to cuda:{gpus - 1}"
    hint = "Leave machine.device out, set cpu, or see umemma check."
    raise UserError(f"{wanted} isn't there: {seen}", "machine.device", hint)


def _join_process_group(device: torch.device) -> None:
    # Its functions have the process group of the moment of their import as a default, and DDP
    # imports it. Imported before there is one, it doesn't keep the group alive after `shutdown`.
    import torch.distributed.nn.functional  # noqa: F401
    from torch import distributed as dist

    if dist.is_initialized():
        return
    if "MASTER_ADDR" not in os.environ:
        _set_slurm_address()
    backend = "gloo"
    if device.type == "cuda":
        backend = "cpu:gloo,cuda:nccl"
    rank, size, _ = world()
    dist.init_process_group(backend, rank=rank, world_size=size)
    if device.type == "cuda":
        _check_own_gpu(device)


def _check_own_gpu(device: torch.device) -> None:
    """Raise UserError where processes have the same GPU, between which NCCL sends nothing."""
    import torch

    gpus = all_gather_object(str(torch.cuda.get_device_properties(device).uuid))
    ranks = [str(rank) for rank, gpu in enumerate(gpus) if gpus.count(gpu) > 1]
    if ranks:
        raise UserError(
            f"{', '.join(ranks[:8])} of {len(gpus)} processes share a GPU",
            "environment",
            "Start as many processes on a machine as it has GPUs, or set CUDA_VISIBLE_DEVICES to "
            "nothing for training on the CPU.",
        )


def _set_slurm_address() -> None:
    """Set where the processes meet: on the first machine of the step, at a port of the step."""
    nodes = os.environ.get("SLURM_STEP_NODELIST", "localhost")
    os.environ["MASTER_ADDR"] = _first_host(nodes)
    job = int(os.environ.get("SLURM_JOB_ID", 0))
    step = int(os.environ.get("SLURM_STEP_ID", 0))
    port = 20000 + (job * 31 + step) % 20000
    os.environ.setdefault("MASTER_PORT", str(port))


def _first_host(nodes: str) -> str:
    """Return the first machine of a Slurm list: "gpu07" of "gpu[07-09,12],login1"."""
    match = re.match(r"([^\[,]+)(?:\[(\w+))?", nodes)
    if match is None:
        return "localhost"
    return match[1] + (match[2] or "")


def shutdown() -> None:
    """Leave the process group, if this process is in one, and end its threads.

    A thread of gloo that still lets go of a tensor while Python ends aborts the process (pytorch
    issue 190489). They end with the last reference to the group, which a model in
    DistributedDataParallel has too.
    """
    if _is_joined():
        from torch import distributed as dist

        dist.destroy_process_group()


def all_reduce_max(numbers: Sequence[float]) -> Callable[[], list[float]]:
    """Start to compute the maximum of each number over all ranks.

    Returns a function that waits for the result and returns it.
    """
    import torch
    from torch import distributed as dist

    maxima = torch.tensor(numbers, dtype=torch.float64)
    work = None
    if world().size > 1:
        work = dist.all_reduce(maxima, dist.ReduceOp.MAX, async_op=True)

    def wait() -> list[float]:
        if work is not None:
            work.wait()
        return maxima.tolist()

    return wait


def all_gather_object(value: Any) -> list[Any]:
    """Return the values of all ranks, by rank. They have to be small plain data."""
    size = world().size
    if size == 1:
        return [value]
    from torch import distributed as dist

    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def gather_rows(rank_rows: Tensor, total: int, to_all: bool = True) -> Tensor:
    """Return the (total, ...) rows of all ranks from the (n, ...) rows of each, on the CPU.

    Rank r has the rows of `rank_indices`: r, r + size, ... Without `to_all` only rank 0 gets them,
    and the others none.
    """
    size = world().size
    if size == 1:
        return rank_rows
    import torch
    from torch import distributed as dist

    is_receiver = to_all or is_main()
    gathered = rank_rows.new_empty((total if is_receiver else 0, *rank_rows.shape[1:]))
    row_bytes = max(1, math.prod(rank_rows.shape[1:]) * rank_rows.element_size())
    step = max(1, GATHERED // (row_bytes * size))
    # In blocks, so that beside the rows of all ranks there are no more copies of them.
    for first in range(0, math.ceil(total / size), step):
        own = rank_rows[first : first + step]
        length = min(step, math.ceil(total / size) - first)
        padded = rank_rows.new_zeros((length, *rank_rows.shape[1:]))
        padded[: len(own)] = own
        sent = padded.new_zeros(0, dtype=torch.uint8)
        if padded.numel():
            sent = padded.view(torch.uint8).flatten()
        received = None
        if is_receiver:
            received = [torch.empty_like(sent) for _ in range(size)]
        if to_all:
            dist.all_gather(received, sent)
        else:
            dist.gather(sent, received)
        if received is not None:
            by_rank = [part.view(rank_rows.dtype).view(padded.shape) for part in received]
            rows = gathered[first * size : (first + length) * size]
            rows.copy_(torch.stack(by_rank, 1).flatten(0, 1)[: len(rows)])
    return gathered


def rank_indices(total: int) -> range:
    """Return the rows of this rank. `gather_rows` combines those of all ranks."""
    return range(world().rank, total, world().size)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Copy the tensors of rank 0 into those of all ranks, in place."""
    if world().size == 1:
        return
    from torch import distributed as dist

    for tensor in tensors:
        dist.broadcast(tensor, 0)


def raise_on_all(function: Callable[[], Result]) -> Result:
    """Return `function()`. A UserError of one rank is raised on all, so none waits for another."""
    result = None
    error = None
    try:
        result = function()
    except UserError as caught:
        error = caught
    for first_error in all_gather_object(error):
        if first_error is not None:
            raise error or first_error
    return result  # type: ignore[return-value]


def is_lost_process(error: RuntimeError) -> bool:
    """Return whether an error says that another process can't be reached any more.

    Any other error of gloo or NCCL, such as of sizes that differ, is a bug.
    """
    return _is_joined() and any(sign in str(error) for sign in LOST)


def is_first_to_report(text: str) -> bool:
    """Return whether no other rank has reported this text.

    Ranks fail alike, and the user should read the error once.
    """
    if not _is_joined():
        try:
            return is_main()
        except UserError:
            return True
    from torch import distributed as dist

    try:
        store = dist.distributed_c10d._get_default_store()
        count = int(store.add(f"said: {text}", 1))
    except RuntimeError:  # the process that keeps the count has ended
        return True
    return count == 1


def _is_joined() -> bool:
    if "torch" not in sys.modules:
        return False
    from torch import distributed as dist

    return dist.is_initialized()
