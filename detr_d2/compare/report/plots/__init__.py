"""The figures of the page: records -> SVG by matplotlib, in the colours of its reader."""
