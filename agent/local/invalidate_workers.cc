#include "agent/local/invalidate_workers.h"

namespace viommu::agent {

InvalidateWorkers::InvalidateWorkers(Invalidator& invalidator, Options options)
    : invalidator_(invalidator), options_(options) {}

InvalidateWorkers::~InvalidateWorkers() { Stop(); }

void InvalidateWorkers::Start(Done done) {
  done_ = std::move(done);
  for (int i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { Loop(); });
}

void InvalidateWorkers::Stop() {
  {
    MutexLock lock(mu_);
    stop_ = true;
    wake_.NotifyAll();
  }
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

bool InvalidateWorkers::Submit(int64_t session, const v1::InvalidateCall& call) {
  MutexLock lock(mu_);
  if (stop_ || waiting_.size() >= options_.max_waiting) return false;
  waiting_.emplace_back(session, call);
  wake_.NotifyOne();
  return true;
}

size_t InvalidateWorkers::waiting() const {
  MutexLock lock(mu_);
  return waiting_.size();
}

void InvalidateWorkers::Loop() {
  while (true) {
    std::pair<int64_t, v1::InvalidateCall> next;
    {
      MutexLock lock(mu_);
      while (!stop_ && waiting_.empty()) wake_.Wait(mu_);
      if (stop_) return;
      next = std::move(waiting_.front());
      waiting_.pop_front();
    }
    v1::InvalidateReply reply;
    reply.set_call_id(next.second.call_id());
    *reply.mutable_result() = invalidator_.InvalidateOrStop(next.second.target_uid(), next.second.commands());
    done_(next.first, std::move(reply));
  }
}

}  // namespace viommu::agent
