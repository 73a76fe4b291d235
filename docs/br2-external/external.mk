include $(sort $(wildcard $(BR2_EXTERNAL_TOPE_OTA_PATH)/package/*/*.mk))
