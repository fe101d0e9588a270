#include "agent/smmuv3/spec/registers.h"

namespace viommu::smmuv3 {

const char* RegisterName(uint32_t offset) {
  switch (static_cast<Register>(offset)) {
    case Register::kIdr0:
      return "SMMU_IDR0";
    case Register::kIdr1:
      return "SMMU_IDR1";
    case Register::kIdr2:
      return "SMMU_IDR2";
    case Register::kIdr3:
      return "SMMU_IDR3";
    case Register::kIdr4:
      return "SMMU_IDR4";
    case Register::kIdr5:
      return "SMMU_IDR5";
    case Register::kIidr:
      return "SMMU_IIDR";
    case Register::kAidr:
      return "SMMU_AIDR";
    case Register::kCr0:
      return "SMMU_CR0";
    case Register::kCr0Ack:
      return "SMMU_CR0ACK";
    case Register::kCr1:
      return "SMMU_CR1";
    case Register::kCr2:
      return "SMMU_CR2";
    case Register::kGbpa:
      return "SMMU_GBPA";
    case Register::kIrqCtrl:
      return "SMMU_IRQ_CTRL";
    case Register::kIrqCtrlAck:
      return "SMMU_IRQ_CTRLACK";
    case Register::kGerror:
      return "SMMU_GERROR";
    case Register::kGerrorn:
      return "SMMU_GERRORN";
    case Register::kStrtabBase:
      return "SMMU_STRTAB_BASE";
    case Register::kStrtabBaseCfg:
      return "SMMU_STRTAB_BASE_CFG";
    case Register::kCmdqBase:
      return "SMMU_CMDQ_BASE";
    case Register::kCmdqProd:
      return "SMMU_CMDQ_PROD";
    case Register::kCmdqCons:
      return "SMMU_CMDQ_CONS";
    case Register::kEventqBase:
      return "SMMU_EVENTQ_BASE";
    case Register::kEventqProd:
      return "SMMU_EVENTQ_PROD";
    case Register::kEventqCons:
      return "SMMU_EVENTQ_CONS";
    case Register::kPriqBase:
      return "SMMU_PRIQ_BASE";
    case Register::kPriqProd:
      return "SMMU_PRIQ_PROD";
    case Register::kPriqCons:
      return "SMMU_PRIQ_CONS";
    case Register::kGerrorIrqCfg0:
      return "SMMU_GERROR_IRQ_CFG0";
    case Register::kGerrorIrqCfg1:
      return "SMMU_GERROR_IRQ_CFG1";
    case Register::kGerrorIrqCfg2:
      return "SMMU_GERROR_IRQ_CFG2";
    case Register::kEventqIrqCfg0:
      return "SMMU_EVENTQ_IRQ_CFG0";
    case Register::kEventqIrqCfg1:
      return "SMMU_EVENTQ_IRQ_CFG1";
    case Register::kEventqIrqCfg2:
      return "SMMU_EVENTQ_IRQ_CFG2";
    case Register::kPriqIrqCfg0:
      return "SMMU_PRIQ_IRQ_CFG0";
    case Register::kPriqIrqCfg1:
      return "SMMU_PRIQ_IRQ_CFG1";
    case Register::kPriqIrqCfg2:
      return "SMMU_PRIQ_IRQ_CFG2";
  }
  return nullptr;
}

bool IsWide(Register reg) {
  switch (reg) {
    case Register::kStrtabBase:
    case Register::kCmdqBase:
    case Register::kEventqBase:
    case Register::kPriqBase:
    case Register::kGerrorIrqCfg0:
    case Register::kEventqIrqCfg0:
    case Register::kPriqIrqCfg0:
      return true;
    default:
      return false;
  }
}

const char* CommandErrorName(CommandErrorCode code) {
  switch (code) {
    case CommandErrorCode::kNone:
      return "CERROR_NONE";
    case CommandErrorCode::kIllegal:
      return "CERROR_ILL";
    case CommandErrorCode::kAbort:
      return "CERROR_ABT";
    case CommandErrorCode::kAtcInvSync:
      return "CERROR_ATC_INV_SYNC";
    case CommandErrorCode::kIllegalAccess:
      return "CERROR_ILL_ACCESS";
  }
  return "CERROR_UNKNOWN";
}

}  // namespace viommu::smmuv3
