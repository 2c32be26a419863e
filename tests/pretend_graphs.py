"""CUDA graphs that are not there: what is recorded runs again on the same memory, and only there, as on a GPU.

Recording computes nothing that may be used, a read or a copy from elsewhere ends it with an error, and what lies in the
graph's own memory is NaN once it has run: the next graph may have written there.
"""

import torch
from pretend_gpu import CAPTURES, MOVES, READS, WAITING, is_there
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Kernels(TorchDispatchMode):
    """Records operations, with the tensors that they read and write."""

    def __init__(self):
        super().__init__()
        self.calls, self.own, self.outside, self.launches = [], [], {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        places = {is_there(t.device) for t in given}
        places |= {
            is_there(device) for device in [kwargs.get("device")] if device and name in MOVES
        }
        if name in READS or (name in MOVES and len(places) > 1):
            raise RuntimeError(WAITING)
        mine = {place(t) for t in self.own}
        self.outside |= {place(t): t for t in given if place(t) not in mine}
        out = func(*args, **kwargs)
        results = [t for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)]
        new = [t for t in results if place(t) not in {*mine, *self.outside}]
        self.own += new
        self.calls.append(
            (func, args, kwargs, results, [any(t is n for n in new) for t in results])
        )
        return out

    def launch(self):
        """Run every operation again, into the memory of the first time."""
        self.launches += 1
        with torch._C._AutoDispatchBelowAutograd():  # kernels know of no gradient
            self.compute()
            self.wipe()

    def compute(self):
        """Launch the kernels one after another."""
        for func, args, kwargs, results, new in self.calls:
            again = tree_flatten(func(*args, **kwargs))[0]
            again = [t for t in again if isinstance(t, torch.Tensor)]
            for t, value, is_new in zip(results, again, new, strict=True):
                if is_new:
                    t.copy_(value)

    def wipe(self):
        """Leave nothing behind in the graph's own memory."""
        for t in self.own:
            if t.is_floating_point():
                t.fill_(torch.nan)


def place(t):
    """Return the address of a tensor's memory."""
    return t.untyped_storage().data_ptr()


def recorder(kept):
    """Return what stands in for `cuda_graph.recorder`; what it records is added to the list `kept`."""

    def record(work):
        kernels = Kernels()
        CAPTURES.append(kernels)
        try:
            with kernels:
                work()
        finally:
            CAPTURES.clear()
        with torch.no_grad():
            kernels.wipe()
        kept.append(kernels)
        return kernels.launch

    return lambda device: record
