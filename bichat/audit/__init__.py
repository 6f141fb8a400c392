"""Reading the audit of a tenant: every reading is in the log before anything is shown."""
