"""Sources of papers: one small class each, all with the interface of paperlab.site.store.item.Source."""
