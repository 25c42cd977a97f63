"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """`AEM_GYM_CACHE` if it is set, else `aem_gym` in the user's cache folder. Not created."""
    chosen = os.environ.get("AEM_GYM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "aem_gym"
    root = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(root) if root else Path.home() / ".cache") / "aem_gym"
