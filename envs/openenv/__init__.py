"""Environments of OpenEnv servers, as environments of ours: `openenv:URL`."""
