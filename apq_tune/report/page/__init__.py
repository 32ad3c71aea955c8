"""Parts of the HTML report: what each section says, computed from the files of a run and nothing else."""
