"""`doit report`: what is known of built targets and releases, as one HTML page that needs nothing else."""
