"""What the outside sees over HTTP: `app.create_app` builds it, one module for each resource."""
