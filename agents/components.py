"""The built-in models, samplers, learners, response formats and agents, by name: strings only."""

from __future__ import annotations

COMPONENTS: dict[str, dict[str, str]] = {
    "aem_gym.models": {
        "tiny": "aem_gym.agents.tiny:Tiny",
        "smollm2": "aem_gym.agents.smollm2:SmolLM2",
    },
    "aem_gym.samplers": {
        "hf": "aem_gym.agents.sampler:HFPolicy",
        "vllm": "aem_gym.agents.vllm_policy:VLLMPolicy",
    },
    "aem_gym.learners": {"hf": "aem_gym.agents.learner:HFLearner"},
    "aem_gym.formats": {
        "tags": "aem_gym.agents.formats:Tags",
        "published": "aem_gym.agents.formats:Published",
        "short": "aem_gym.agents.formats:Short",
        "plain": "aem_gym.agents.formats:Plain",
        "react": "aem_gym.agents.formats:React",
        "think_line": "aem_gym.agents.formats:ThinkLine",
        "bash": "aem_gym.agents.formats:FencedBash",
        "tool_call": "aem_gym.agents.tool_formats:ToolCall",
        "xml_function": "aem_gym.agents.tool_formats:XmlFunction",
    },
    "aem_gym.agents": {
        "random": "aem_gym.agents.baselines:RandomAgent",
        "expert": "aem_gym.agents.baselines:ExpertAgent",
        "human": "aem_gym.agents.baselines:HumanAgent",
    },
}
"""Entry-point group -> name -> `module:attribute`."""

DEFAULTS: dict[str, str] = {"aem_gym.models": "tiny"}
"""The components of a run that names none."""
