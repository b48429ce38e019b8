"""What lies between driver and server: a delay line for packets or for streams, the same for every protocol."""
