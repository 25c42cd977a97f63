"""`python -m aem_gym.envs.swe.images` is `aem-gym swe images`."""

from aem_gym.envs.swe.authoring.images import images_command

images_command(prog_name="python -m aem_gym.envs.swe.images")
