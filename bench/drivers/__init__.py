"""Who owns the sockets: one module per concurrency library, each a process of its own."""
