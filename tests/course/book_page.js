// What a page of the site does wrong, a sentence each: run in the page once its formulas are set.
() => {
  const wrong = [], wide = document.documentElement.clientWidth;
  const article = document.querySelector("article") ?? document.body;
  const style = (element) => getComputedStyle(element);
  const scrolls = (element) => {
    for (let box = element.parentElement; box && box !== document.body; box = box.parentElement)
      if (["auto", "scroll"].includes(style(box).overflowX)) return true;
    return false;
  };
  if (document.documentElement.scrollWidth > wide) wrong.push(`it is ${document.documentElement.scrollWidth} wide`);
  for (const element of article.querySelectorAll("*")) {
    const box = element.getBoundingClientRect();
    if (box.width && box.right > wide + 1 && !scrolls(element) && !element.closest("mjx-assistive-mml"))
      wrong.push(`<${element.tagName.toLowerCase()}> ends at ${Math.round(box.right)}`);
  }
  for (const code of article.querySelectorAll("pre"))
    if (code.scrollWidth > code.clientWidth + 1 && !["auto", "scroll"].includes(style(code).overflowX) && !scrolls(code))
      wrong.push(`clipped code: ${code.textContent.slice(0, 60)}`);
  for (const formula of article.querySelectorAll(".math"))
    if (!formula.querySelector("mjx-container svg")) wrong.push(`not set: ${formula.textContent.slice(0, 60)}`);
  for (const error of article.querySelectorAll('[data-mml-node="merror"]')) wrong.push(`bad formula: ${error.textContent}`);
  const texts = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    if (text.parentElement.closest("pre, code, script, style, mjx-container, .pre")) continue;
    if (/\$[^$]+\$|\\[a-zA-Z([|{]/.test(text.data)) wrong.push(`raw: ${text.data.trim().slice(0, 60)}`);
  }
  for (const image of document.images) {
    if (image.complete && !image.naturalWidth) wrong.push(`no picture: ${image.src.slice(0, 60)}`);
    if (!image.alt) wrong.push(`no words for a picture: ${image.src.slice(0, 60)}`);
  }
  return wrong;
}
