"""The agents of aem_gym. Import as aem_gym.agents."""
