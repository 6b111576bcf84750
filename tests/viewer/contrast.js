// Every text that can be seen and whose contrast with what is behind it is too low (WCAG 2, level AA), with its ratio.
() => {
  const numbers = (colour) => {
    const found = colour.match(/[\d.e+-]+/g).map(Number);
    const scale = colour.startsWith("color(") ? 255 : 1;
    return { rgb: found.slice(0, 3).map((c) => c * scale), alpha: found.length > 3 ? found[3] : 1 };
  };
  const over = (top, bottom) => top.rgb.map((c, i) => c * top.alpha + bottom[i] * (1 - top.alpha));
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [x, y] = [luminance(a), luminance(b)].sort((m, n) => n - m);
    return (x + 0.05) / (y + 0.05);
  };
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.push(numbers(getComputedStyle(one).backgroundColor));
    let colour = [255, 255, 255];
    for (const layer of layers.reverse()) colour = over(layer, colour);
    return colour;
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let checked = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || /^(SCRIPT|STYLE|TITLE|DESC)$/i.test(element.tagName)) continue;
    const style = getComputedStyle(element);
    const drawn = element instanceof SVGElement;
    const box = drawn && element.closest("a")?.querySelector("rect");
    const ground = box ? numbers(getComputedStyle(box).fill).rgb : behind(element);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const found = ratio(over(numbers(drawn ? style.fill : style.color), ground), ground);
    checked += 1;
    if (found < (large ? 3 : 4.5)) low.push(`${found.toFixed(2)} ${element.tagName}.${element.className.baseVal ?? element.className}: ${text.slice(0, 40)}`);
  }
  return { low: [...new Set(low)], checked };
}
