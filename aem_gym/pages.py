"""What an environment that can be played on a web page has to offer.

An environment class that can defines `page_app` (for `aem-gym play --web`); it is found by name, so
environments of other packages have it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    import gymnasium as gym


@runtime_checkable
class HasPage(Protocol):
    """An environment class with a web page to play on."""

    def page_app(self, env: gym.Env[str, str], *, seed: int = 0) -> WSGIApplication:
        """The page of a running environment. A classmethod or staticmethod.

        It is called by one thread, a request at a time, behind the checks of `aem_gym.loopback`.
        What changes anything should ask for a POST with a token that other web sites cannot know.

        Args:
            env: as `gym.make` gave it, wrappers and all; not yet reset.
            seed: the first task.
        """
