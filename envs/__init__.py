"""The environments of aem_gym. Import as aem_gym.envs; ids are registered by aem_gym.registry."""

import os

# `aem_gym/envs` is a link to this folder. Modules load by their real path, so that breakpoints
# and tracebacks name the files that one edits.
__path__ = [os.path.realpath(path) for path in __path__]
