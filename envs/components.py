"""The components that aem_gym's environments register, as import strings."""

COMPONENTS: dict[str, dict[str, str]] = {
    "aem_gym.envs": {
        "aem_gym/ALFWorld-v0": "aem_gym.envs.alfworld.env:ALFWorldEnv",
        "aem_gym/WebShop-v0": "aem_gym.envs.webshop.env:WebShopEnv",
        "aem_gym/SWE-v0": "aem_gym.envs.swe.env:SWEEnv",
    },
    "aem_gym.env_schemes": {"openenv": "aem_gym.envs.openenv.env:OpenEnv"},
    "aem_gym.commands": {
        "swe": "aem_gym.envs.swe.authoring.cli:swe",
        "webshop": "aem_gym.envs.webshop.authoring.cli:webshop",
    },
}
DEFAULTS = {"aem_gym.envs": "aem_gym/ALFWorld-v0"}
