"""Networks that save and load their tensors under the names of published files, where those are not their own."""
from collections.abc import Callable
from typing import Any

from torch import nn


def publish(net: nn.Module, name_of: Callable[[str], str]) -> None:
    """Give the tensors of `net`, which is complete, their published names in every state dict. name_of: own name ->
    published one."""
    own = {name_of(name): name for name in net.state_dict()}

    def renamed(state: dict[str, Any], prefix: str, name_of: Callable[[str], str]) -> None:
        for name in [name for name in state if name.startswith(prefix)]:
            state[prefix + name_of(name.removeprefix(prefix))] = state.pop(name)

    net.register_state_dict_post_hook(lambda _, state, prefix, __: renamed(state, prefix, name_of))
    net.register_load_state_dict_pre_hook(
        lambda _, state, prefix, *__: renamed(state, prefix, lambda name: own.get(name, name))
    )
