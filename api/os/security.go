package os

// Security is /1.0/system/security.
type Security struct {
	// Config is what the owner asked for.
	Config SecurityConfig `json:"config" yaml:"config"`
	// State is what the node observes; it is not read from a request.
	State SecurityState `json:"state" yaml:"state"`
}

// SecurityConfig holds what an owner may set.
type SecurityConfig struct {
	// EncryptionRecoveryKeys open root and swap when the TPM does not; never null.
	EncryptionRecoveryKeys []string `json:"encryption_recovery_keys" yaml:"encryption_recovery_keys"`
	// CustomCACerts are PEM certificates trusted beside Debian's own.
	CustomCACerts []string `json:"custom_ca_certs,omitempty" yaml:"custom_ca_certs,omitempty"`
}

// SecurityState is what the node can say about how far it can be trusted.
type SecurityState struct {
	// EncryptedVolumes lists the LUKS volumes of the system disk; never null.
	EncryptedVolumes []EncryptedVolume `json:"encrypted_volumes" yaml:"encrypted_volumes"`
	// EncryptionRecoveryKeysRetrieved is true once an owner has said that the keys are kept elsewhere.
	EncryptionRecoveryKeysRetrieved bool `json:"encryption_recovery_keys_retrieved" yaml:"encryption_recovery_keys_retrieved"`
	// DriveRecoveryKeys are base64 keys of encrypted drives, by drive id; never null.
	DriveRecoveryKeys map[string]string `json:"drive_recovery_keys" yaml:"drive_recovery_keys"`
	// PoolRecoveryKeys are base64 keys of encrypted ZFS pools, by pool name; never null.
	PoolRecoveryKeys map[string]string `json:"pool_recovery_keys" yaml:"pool_recovery_keys"`
	// SecureBootCertificates are the certificates in the firmware's variables.
	SecureBootCertificates []SecureBootCertificate `json:"secure_boot_certificates" yaml:"secure_boot_certificates"`
	// SecureBoot is how far updates of these have come; absent where none ever came.
	SecureBoot *SecureBootState `json:"secure_boot,omitempty" yaml:"secure_boot,omitempty"`
	// SecureBootEnabled is the firmware's SecureBoot variable.
	SecureBootEnabled bool `json:"secure_boot_enabled" yaml:"secure_boot_enabled"`
	// SystemStateIsTrusted is false when the node runs, or ever ran, with a part of its chain of trust off.
	SystemStateIsTrusted bool `json:"system_state_is_trusted" yaml:"system_state_is_trusted"`
	// SystemStateStatus says why in words.
	SystemStateStatus string `json:"system_state_status" yaml:"system_state_status"`
	// TPMStatus is "ok", "missing", "swtpm", or "pcr mismatch": the TPM did not open root at this
	// start, or PCR 7 is not what the firmware says that it measured.
	TPMStatus string `json:"tpm_status" yaml:"tpm_status"`
	// UsrRootHash is the dm-verity root hash of the running /usr, 64 hexadecimal digits.
	UsrRootHash string `json:"usr_root_hash,omitempty" yaml:"usr_root_hash,omitempty"`
}

// EncryptedVolume is one LUKS volume and how it was opened.
type EncryptedVolume struct {
	// Volume is "root" or "swap".
	Volume string `json:"volume" yaml:"volume"`
	// State is "locked", "unlocked (TPM)" or "unlocked (recovery passphrase)".
	State string `json:"state" yaml:"state"`
}

// SecureBootCertificate is one certificate of the firmware's key databases.
type SecureBootCertificate struct {
	// Type is "PK", "KEK", "db" or "dbx".
	Type string `json:"type" yaml:"type"`
	// Fingerprint is the SHA-256 of the DER certificate, hexadecimal.
	Fingerprint string `json:"fingerprint" yaml:"fingerprint"`
	// Subject is whom the certificate is for, as "CN=Example Platform Key,O=Example".
	Subject string `json:"subject" yaml:"subject"`
	// Issuer is who signed the certificate, as "CN=Example Root,O=Example".
	Issuer string `json:"issuer" yaml:"issuer"`
}
