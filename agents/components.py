"""What the agents of aem_gym register, as import strings."""

COMPONENTS: dict[str, dict[str, str]] = {
    "aem_gym.models": {
        "tiny": "aem_gym.agents.tiny:Tiny",
        "smollm2": "aem_gym.agents.smollm2:SmolLM2",
    },
    "aem_gym.agents": {
        "random": "aem_gym.agents.random:RandomAgent",
        "expert": "aem_gym.agents.expert:ExpertAgent",
        "human": "aem_gym.agents.human:HumanAgent",
    },
}
DEFAULTS = {"aem_gym.models": "tiny"}
