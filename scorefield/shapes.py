"""Shape annotations: jaxtyping and torch where a checker has loaded them (under test), placeholders elsewhere.

Annotations are strings at run time (`from __future__ import annotations`), so a module that needs torch only to say what
its functions take stays free of torch's two seconds of import: configurations are checked, and help is printed, without it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or {"torch", "jaxtyping"} <= sys.modules.keys():
    from jaxtyping import Bool, Float, Int
    from torch import Generator, Tensor
else:

    class _Placeholder:
        def __class_getitem__(cls, item: Any) -> Any:
            return Any

    Bool = Float = Int = Tensor = Generator = _Placeholder

__all__ = ["Bool", "Float", "Generator", "Int", "Tensor"]
