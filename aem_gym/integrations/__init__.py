"""AEM and our environments inside other libraries. Each module needs its own, and says which."""
