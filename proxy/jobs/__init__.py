"""The life of a job: record, tracker, registry, routing of events to sockets, reconciliation."""
