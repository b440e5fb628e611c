"""Around the machine: tasks, models, run folders, pictures and the pipeline that joins them."""
