"""Many objects: plan, engine, report."""
