#include "tests/simulation/mutations.h"

namespace viommu::simulation {

std::string_view MutationName(Mutation mutation) {
  switch (mutation) {
    case Mutation::kNone:
      return "none";
    case Mutation::kAcknowledgeBeforeSync:
      return "acknowledge-before-sync";
    case Mutation::kJournalSyncLies:
      return "journal-sync-lies";
    case Mutation::kRepeatWatchEvent:
      return "repeat-watch-event";
    case Mutation::kDropWatchEvent:
      return "drop-watch-event";
    case Mutation::kLoseUnknownUids:
      return "lose-unknown-uids";
    case Mutation::kPoseAsFirst:
      return "pose-as-first";
    case Mutation::kReuseDeviceEarly:
      return "reuse-device-early";
    case Mutation::kRebindFreesIdEarly:
      return "rebind-frees-id-early";
    case Mutation::kBelieveOldResults:
      return "believe-old-results";
    case Mutation::kLoseRequestRecord:
      return "lose-request-record";
    case Mutation::kIgnoreFingerprint:
      return "ignore-fingerprint";
    case Mutation::kPublishFailedCommit:
      return "publish-failed-commit";
    case Mutation::kReuseRevisions:
      return "reuse-revisions";
    case Mutation::kKeepEpoch:
      return "keep-epoch";
    case Mutation::kIgnoreIncarnation:
      return "ignore-incarnation";
    case Mutation::kIgnoreStarts:
      return "ignore-starts";
    case Mutation::kIgnoreEpoch:
      return "ignore-epoch";
    case Mutation::kDropNack:
      return "drop-nack";
    case Mutation::kForgetChange:
      return "forget-change";
    case Mutation::kForgetGoneWaiter:
      return "forget-gone-waiter";
    case Mutation::kIgnoreQuota:
      return "ignore-quota";
    case Mutation::kIgnoreGroups:
      return "ignore-groups";
    case Mutation::kMissDeadline:
      return "miss-deadline";
    case Mutation::kMissDrift:
      return "miss-drift";
    case Mutation::kForgetTombstone:
      return "forget-tombstone";
    case Mutation::kActBeforeJournal:
      return "act-before-journal";
    case Mutation::kIgnoreBootId:
      return "ignore-boot-id";
    case Mutation::kReleaseTooEarly:
      return "release-too-early";
    case Mutation::kRenameUnsynced:
      return "rename-unsynced";
    case Mutation::kBuildOnFailedWrite:
      return "build-on-failed-write";
    case Mutation::kForgetDirectorySync:
      return "forget-directory-sync";
    case Mutation::kStayBound:
      return "stay-bound";
    case Mutation::kKeepQueue:
      return "keep-queue";
    case Mutation::kStayAttached:
      return "stay-attached";
    case Mutation::kShareVmid:
      return "share-vmid";
    case Mutation::kKeepTranslations:
      return "keep-translations";
    case Mutation::kKeepUnmapped:
      return "keep-unmapped";
    case Mutation::kInvalidateEverybody:
      return "invalidate-everybody";
    case Mutation::kForgetPin:
      return "forget-pin";
    case Mutation::kBelieveQueueVmid:
      return "believe-queue-vmid";
  }
  return "";
}

}  // namespace viommu::simulation
