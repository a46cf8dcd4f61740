"""Lightning modules and what a training needs."""
