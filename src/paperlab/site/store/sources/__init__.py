"""Where papers come from: one small class each, the same contract (paperlab.site.store.harvest.Source)."""
