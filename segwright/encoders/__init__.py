"""Classification networks as sources of features, asked for by stride."""
