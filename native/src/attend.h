// Attention of a batch, cut into jobs that threads take.
#pragma once
#include <vector>

#include "model.h"

namespace pl {

// Queries that go through one head's keys and values together: several tokens of one text for one head, which see all
// there is, or all heads of a single token that share these keys, with one stretch of the positions.
struct AttendJob {
  const Session* session;
  int64_t row, head;  // of the first query: token in the batch, head
  int tokens, heads;  // one of them is 1
  int from, to;       // the positions seen by the last token; each before sees one less
  int place;          // of a single token's stretch among all such
  int last;           // positions that the last token sees in all
};

// The jobs of one layer; the stretches of a token and head one after another. stretches: how many have a place.
std::vector<AttendJob> attend_jobs(const std::vector<Part>& parts, const LlamaConfig& config, int& stretches);
// Brings near what a thread that begins with this job reads first.
void attend_fetch(const AttendJob& job, const LlamaConfig& config, int64_t layer);

}  // namespace pl
