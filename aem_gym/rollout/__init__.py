"""Rollout: environments stepped together, episodes collected and recorded."""
