"""What must hold whatever breaks: real processes, real signals, an oracle that reads the log afterwards."""
