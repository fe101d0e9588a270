#include "tests/simulation/network.h"

#include <algorithm>
#include <utility>

#include "tests/simulation/mutations.h"

namespace viommu::simulation {

MonotonicTime Link::Arrival(MonotonicTime& last) {
  const MonotonicTime arrival = scheduler_.now() + scheduler_.random.Between(weather_.least_delay, weather_.most_delay);
  return last = std::max(last, arrival);  // never before what was sent earlier
}

// --- From agent to server.

void Link::AgentWrites(v1::ConnectRequest message) {
  agent_writing_ = true;
  ++under_way_to_server_;
  if (!lost_to_server_) {
    auto carried = std::make_shared<v1::ConnectRequest>(std::move(message));
    scheduler_.After(Arrival(last_to_server_) - scheduler_.now(), [self = shared_from_this(), carried] {
      if (!self->lost_to_server_) self->ArriveAtServer(std::make_unique<v1::ConnectRequest>(std::move(*carried)));
    });
  }
  CompleteAgentWrite();
}

void Link::CompleteAgentWrite() {
  if (!agent_writing_ || under_way_to_server_ >= window_) return;
  scheduler_.After(std::chrono::microseconds(20), [self = shared_from_this()] {
    if (!self->agent_writing_ || self->agent_gone_) return;
    self->agent_writing_ = false;
    self->agent_.can_write();
  });
}

void Link::AgentLeaves() {
  if (agent_gone_) return;
  agent_gone_ = true;
  if (lost_to_server_) return;  // nobody tells the server
  scheduler_.After(Arrival(last_to_server_) - scheduler_.now(), [self = shared_from_this()] {
    if (!self->lost_to_server_) self->EndForServer();
  });
}

void Link::ArriveAtServer(std::unique_ptr<v1::ConnectRequest> message) {
  at_server_.push_back(std::move(message));
  HandToServer();
}

void Link::HandToServer() {
  if (session_ == nullptr || !server_reads_) return;
  if (!at_server_.empty()) {
    server_reads_ = false;
    std::unique_ptr<v1::ConnectRequest> message = std::move(at_server_.front());
    at_server_.pop_front();
    --under_way_to_server_;
    last_handed_ = scheduler_.now();
    CompleteAgentWrite();
    if (message->has_hello()) agent_.hello_arrives(*message->mutable_hello());
    session_->Heard(std::move(message));
  } else if (end_at_server_) {
    server_reads_ = false;
    const auto session = session_;
    session->StreamEnded();
  }
}

void Link::EndForServer() {
  end_at_server_ = true;
  if (server_writing_) EndServerWrite(false);
  HandToServer();
}

// --- The server's end.

void Link::Accept(server::AgentSessions& sessions) {
  // Open may call back before it returns; those calls only take notes until the session is known.
  session_ = sessions.Open(this, {"simulated", false, {}});
  HandToServer();
}

void Link::ServerEnds(bool tells) {
  if (session_ == nullptr) return;
  server_ending_ = true;
  if (finished_) LeaveSession();
  if (tells || lost_to_agent_) return;
  lost_to_agent_ = true;
  scheduler_.After(Arrival(last_to_agent_) - scheduler_.now(),
                   [self = shared_from_this()] { self->EndForAgent(absl::UnavailableError("the connection broke")); });
}

void Link::Read() {
  server_reads_ = true;
  scheduler_.After(nanoseconds(0), [self = shared_from_this()] { self->HandToServer(); });
}

void Link::Write(std::unique_ptr<v1::ConnectResponse> message) {
  server_writing_ = true;
  ++under_way_to_agent_;
  if (!lost_to_agent_) {
    if (message->has_desired() && ActiveMutation() == Mutation::kLoseUnknownUids) {
      message->mutable_desired()->clear_unknown_uids();
    }
    std::shared_ptr<v1::ConnectResponse> carried = std::move(message);
    scheduler_.After(Arrival(last_to_agent_) - scheduler_.now(), [self = shared_from_this(), carried] {
      if (self->lost_to_agent_) return;
      --self->under_way_to_agent_;
      if (self->server_writing_) self->EndServerWrite(true);
      if (!self->agent_gone_) self->agent_.message(*carried);
    });
  }
  if (under_way_to_agent_ < window_) {
    scheduler_.After(std::chrono::microseconds(20), [self = shared_from_this()] {
      if (self->server_writing_ && self->under_way_to_agent_ < self->window_)
        self->EndServerWrite(!self->end_at_server_);
    });
  }
}

void Link::EndServerWrite(bool ok) {
  server_writing_ = false;
  const auto session = session_;
  if (session != nullptr) session->Written(ok);
}

void Link::Cancel() {
  if (server_ending_) return EndServerWrite(false);
  scheduler_.After(nanoseconds(0), [self = shared_from_this()] {
    if (self->server_writing_) self->EndServerWrite(false);
  });
}

void Link::Finish(const absl::Status& status) {
  finished_ = true;
  if (!lost_to_agent_) {
    scheduler_.After(Arrival(last_to_agent_) - scheduler_.now(), [self = shared_from_this(), status] {
      if (!self->lost_to_agent_) self->EndForAgent(status);
    });
  }
  if (server_ending_) return LeaveSession();
  scheduler_.After(nanoseconds(0), [self = shared_from_this()] { self->LeaveSession(); });
}

void Link::LeaveSession() {
  const auto session = std::exchange(session_, nullptr);
  if (session == nullptr) return;
  if (std::exchange(server_reads_, false)) session->StreamEnded();
  session->Gone();
}

void Link::EndForAgent(const absl::Status& status) {
  if (agent_gone_) return;
  agent_gone_ = true;
  agent_.ended(status);
}

// --- The network's.

void Link::Cut() {
  if (lost_to_server_ && lost_to_agent_) return;
  lost_to_server_ = true;
  lost_to_agent_ = true;
  const auto notices = [this] { return scheduler_.random.Between(nanoseconds(0), milliseconds(300)); };
  scheduler_.After(notices(), [self = shared_from_this()] { self->EndForServer(); });
  scheduler_.After(notices(),
                   [self = shared_from_this()] { self->EndForAgent(absl::UnavailableError("the connection broke")); });
}

void Link::GoHalfOpen(bool to_server, bool to_agent) {
  lost_to_server_ = lost_to_server_ || to_server;
  lost_to_agent_ = lost_to_agent_ || to_agent;
}

}  // namespace viommu::simulation
