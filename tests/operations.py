"""What a device would be given to do: operations are counted, by name."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

#: What gives a device nothing to do.
FREE = {"device", "view", "expand", "slice", "transpose", "unsqueeze", "squeeze", "permute", "select", "split", "t"}
FREE |= {"alias", "reshape", "flatten", "chunk", "empty_like", "unsafe_view", "detach", "lift_fresh"}


class Operations(TorchDispatchMode):
    """Counts what a device would be given to do; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0].strip("_")
        if name not in FREE:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))
