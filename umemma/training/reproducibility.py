"""What makes a training repeat to the bit: the seed, deterministic kernels, and their limits.

The number of threads is set here too, as rounding depends on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator

import torch

from umemma.config import Machine
from umemma.errors import UserError
from umemma.system import distributed
from umemma.system.cores import count_cores
from umemma.system.seeds import derive

DEBUG_MODES = {True: "error", "warn": "warn", False: "default"}  # of machine.deterministic


def prepare(seed: int, *names: str, machine: Machine | None = None) -> torch.device:
    """Join the other processes, seed torch, request deterministic kernels and return the device.

    The seed of torch serves what can't be handed a generator, such as initial weights. machine:
    None = the default settings.
    """
    machine = machine or Machine()
    set_threads(machine.threads)
    # Without a fixed workspace cuBLAS is not deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Unlike use_deterministic_algorithms this does not import torch's compiler (a second).
    torch.set_deterministic_debug_mode(DEBUG_MODES[machine.deterministic])
    # Uninitialised memory is never read, so filling it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(derive(seed, *names))
    _keep_freed_memory()
    return distributed.init(machine.device)


def set_threads(threads: int | None) -> None:
    """Set the threads that torch computes with, unless OMP_NUM_THREADS has set them.

    None is torch's own number, which counts physical cores, but no more than this process may use.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    torch.set_num_threads(threads or min(_count_threads_of_torch(), count_cores()))


@functools.cache
def _count_threads_of_torch() -> int:
    """Return the number of threads that torch had before this module changed it."""
    return torch.get_num_threads()


@contextlib.contextmanager
def explain_nondeterminism() -> Iterator[None]:
    """Turn torch's error for a kernel without a deterministic form into a UserError.

    The UserError names the setting that allows such kernels.
    """
    try:
        yield
    except RuntimeError as error:
        text = " does not have a deterministic implementation"
        what, separator, _ = str(error).partition(text)
        if separator:
            reason = f"{what} has no deterministic form"
        elif "CuBLAS" in what:
            reason = "CuBLAS isn't deterministic here"
        else:
            raise
        hint = (
            "Set machine.deterministic to warn or false: runs may then differ in rounding. "
            "Or use another encoder."
        )
        raise UserError(reason, "machine.deterministic", hint) from error


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory, except for blocks of more than 32 MiB; see mallopt(3).

    By default glibc returns freed memory to the system and requests it again in the next step, page
    by page, which costs a fifth of a step on CPU. The large blocks hold decoded data.
    """
    trim_threshold = -1
    mmap_threshold = -3
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**25)
