// Render the formulas that pymdownx.arithmatex marked, with the KaTeX beside this file.
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".arithmatex")) {
    renderMathInElement(element, {
      delimiters: [
        { left: "\\(", right: "\\)", display: false },
        { left: "\\[", right: "\\]", display: true },
      ],
      macros: { "\\E": "\\operatorname{\\mathbb{E}}", "\\N": "\\mathcal{N}", "\\SNR": "\\operatorname{SNR}" },
      throwOnError: false,
    });
  }
});
