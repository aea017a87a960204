"""The job: expose and bind, sessions, forwarding wire-exact TCP."""
