"""A GPU that is not there: tensors that say so, compute on the processor, and refuse what a GPU would refuse.

Unlike device "meta" it holds numbers: a whole run goes through, and can be compared with one on the processor. It goes by
the name "lazy", the one device beside "meta" that every build of torch lets Python stand in for.
"""

from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("lazy", 0)
MOVES = ("copy_", "_to_copy")  # what may read on one device and write on another
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal")
WAITING = "CUDA error: operation not permitted when stream is capturing"
CAPTURES = []  # what records in this moment: nothing may come from the host
INDEXES = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


class OnGpu(torch.Tensor):
    """A tensor that says it is on the GPU; its storage is the processor's."""

    device = property(lambda self: GPU)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return called(func, args, kwargs or {})


class Operations(TorchDispatchMode):
    """Sees operations that no tensor of the GPU is given."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class Reads(TorchDispatchMode):
    """Counts what waits for the device: a number that becomes Python's, or a shape that depends on values."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in READS:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """Sees functions that no tensor of the GPU is given."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return called(func, args, kwargs or {})


@contextmanager
def pretended(*finders):
    """Have the GPU, and let functions of these names, such as prepare's `find_device`, find it."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    patches = [patch(name, lambda asked: GPU) for name in finders]
    patches.append(patch.object(torch, GPU.type, torch.cpu, create=True))  # asked by checkpointing
    # torch 2.11 refuses to answer for a device of this name
    patches.append(patch.object(torch, "is_autocast_enabled", lambda *device: False))
    try:
        for one in patches:
            one.start()
        with Functions(), Operations():
            yield
    finally:
        for one in patches:
            one.stop()
        torch.__future__.set_swap_module_params_on_conversion(before)


def is_there(device):
    """Say whether a device, or its name, is the GPU."""
    return device is not None and torch.device(device).type == GPU.type


def sent(t):
    """Return a tensor on the processor as one on the GPU, with the same storage."""
    return torch.Tensor._make_subclass(
        OnGpu, t.detach(), dispatch_device=True, device_for_backend_keys=GPU
    )


def home(t):
    """Return a tensor of the GPU as one on the processor, with the same storage."""
    place = t.untyped_storage(), t.storage_offset(), t.size(), t.stride()
    return torch.empty(0, dtype=t.dtype).set_(*place)


def called(func, args, kwargs):
    """Call a function of torch; do by hand what torch refuses to every subclass, or does before Python sees it."""
    own = bool(args) and isinstance(args[0], OnGpu)
    with torch._C.DisableTorchFunctionSubclass():
        if func is torch.Tensor.tolist and own:
            return home(args[0]).tolist()
        if CAPTURES and from_host(func, own, args, kwargs):
            raise RuntimeError(WAITING)
        if func is torch.tensor and is_there(kwargs.get("device")):
            return sent(torch.tensor(*args, **{**kwargs, "device": "cpu"}))
        if func is torch.Tensor.new_tensor and own and "device" not in kwargs:
            return sent(torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], index_of(args[1]), *args[2:])
        return func(*args, **kwargs)


def from_host(func, own, args, kwargs):
    """Say whether a function of torch sends numbers of Python to the GPU, which waits for them."""
    if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and own:
        places = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(place, list | range | np.ndarray) for place in places)
    sends = func is torch.tensor and is_there(kwargs.get("device"))
    return sends or (func is torch.Tensor.new_tensor and own)


def index_of(places):
    """Return an index whose lists are tensors on the processor, from where torch itself would send them."""
    if isinstance(places, tuple):
        return tuple(map(index_of, places))
    listed = isinstance(places, list | range | np.ndarray)
    return torch.as_tensor(np.asarray(places)) if listed else places


def compute(func, args, kwargs):
    """Do one operation on the processor, once all its tensors are together; return tensors where a GPU would have them."""
    if func is torch.ops.prim.device.default:
        return GPU
    if func is torch.ops.aten._fused_sdp_choice.default:
        return 0  # plain operations: the kernels of a GPU are not here
    name = func.overloadpacket.__name__
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    require_together(func, name, tensors)
    there = any(isinstance(t, OnGpu) for t in tensors)
    if kwargs.get("device") is not None:
        there = is_there(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu") if there else kwargs["device"]}
    outer = {}

    def inner(t):
        own = home(t) if isinstance(t, OnGpu) else t
        outer[id(own)] = own, t
        return own

    def outside(t):
        if id(t) not in outer:
            return sent(t) if there else t
        given = outer[id(t)][1]
        if (given.size(), given.stride()) != (t.size(), t.stride()):  # as after squeeze_
            with torch._C.DisableTorchFunctionSubclass():
                given.data = sent(t)
        return given

    args, kwargs = tree_map_only(torch.Tensor, inner, (args, kwargs))
    return tree_map_only(torch.Tensor, outside, func(*args, **kwargs))


def require_together(func, name, tensors):
    """Raise what torch raises where an operation's tensors lie on two devices."""
    here = [t for t in tensors if not isinstance(t, OnGpu)]
    if len(here) in (0, len(tensors)) or name in MOVES:
        return
    numbers = torch.Tag.pointwise in func.tags and all(t.dim() == 0 for t in here)
    indexed = name in INDEXES and isinstance(tensors[0], OnGpu)
    if not (numbers or indexed):
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device")
