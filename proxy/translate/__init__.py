"""Pure translations between the local and the cloud form: no I/O, no clock, no state."""
