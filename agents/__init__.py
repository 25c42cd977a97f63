"""The agents of aem_gym. Import as aem_gym.agents."""

import os

# `aem_gym/agents` is a link to this folder. Modules load by their real path, so that breakpoints
# and tracebacks name the files that one edits.
__path__ = [os.path.realpath(path) for path in __path__]
