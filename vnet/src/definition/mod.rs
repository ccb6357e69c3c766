//! Definitions: libvirt network XML to a model, with diagnostics.
