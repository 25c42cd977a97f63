"""The command `aem-gym swe generate` at its earlier path."""

from aem_gym.envs.swe.authoring.cli import run_as_script

run_as_script(__name__, "generate")
