"""What a `document` job runs inside the guest. The entry is `job.main()`; importing does nothing else."""
