"""AEM and our environments inside the training systems of others."""
