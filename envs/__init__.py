"""The environments of aem_gym. Import as aem_gym.envs; ids are registered by aem_gym.registry."""
